"""What servers of processes import (profiler.runs.processes): seconds that each process would repeat."""
