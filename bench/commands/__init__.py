"""What stands behind each command.

The roof: it alone may look up to results and reports, and nothing imports it but the command line.
"""
