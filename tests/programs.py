"""Programs that stand in a worker's place."""

# Ends as one that was asked to and has saved its work.
SAVES_AT_SIGTERM = """
import signal, sys, time
def save(*_):
    print("saved", flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
"""
