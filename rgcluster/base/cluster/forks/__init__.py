"""Workers of a cluster on this machine, forked from one process that has imported what they import.

Ray starts a process for every actor, which imports Ray, torch and this package for seconds of processor time. Its
`py_executable` names a program in place of Python: `stub.py`, which asks `server.py` for a fork and stands for it in
the eyes of Ray. `launch.py` starts the server. Where a fork would not do, the stub becomes the worker that Ray asked
for.
"""
