"""What app and worker agree on: settings, job states, ledger, queue, artifact store."""
