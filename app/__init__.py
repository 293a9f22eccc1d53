"""The front end: what a client of the service sees. Never imports torch."""
