"""The words between a worker that waits for its request and the process that started it."""

WAIT = "--wait"  # in the place of a request's path on the command line: it comes through standard input
AHEAD = "--ahead "  # before the path of a request that is to be begun with and not yet answered
