"""What lies on disk: run folders, results, remembered plans."""
