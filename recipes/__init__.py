"""One runnable script per benchmark, and the command line they share."""
