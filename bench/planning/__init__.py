"""From the paper's words to a graph of jobs."""
