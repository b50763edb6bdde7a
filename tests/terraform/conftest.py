"""Not for `make test`: these take minutes and tools of their own. See `make terraform-test`."""

collect_ignore_glob = ["test_*.py"]
