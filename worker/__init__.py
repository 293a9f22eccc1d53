"""Takes forget requests off the queue and answers them."""
