"""What holds for all tests."""

import signal

# A shell starts background jobs with Ctrl-C ignored, and their children inherit that; the tests that
# interrupt a process must not depend on how they were started.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
