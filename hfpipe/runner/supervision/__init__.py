"""Supervises the processes of a run: if one fails, all end, and the cause is printed once.

Roles. One process runs a `Coordinator`: `hfpipe run --processes N` for the processes that it starts, or
process 0 under a launcher (`accelerate launch -m hfpipe run`, on one machine or several). Every process of
the run is a `Member`, with one connection to the coordinator that stays open as long as it takes part. The
address is in a file that all of them can read: in a temporary folder, or next to the stages' locks in the
shared folder.

Events that end a run
- A member fails: it sends the cause, and prints its own error unless another member failed first.
- A member dies, for example by SIGKILL: the system closes its connection. The coordinator reads the signal
  from `/proc` if the process was on the same machine.
- A machine or the network is down: the system sends keepalive probes over an idle connection, and closes it
  when they are not answered for 30 seconds (`HFPIPE_SILENCE`). No thread is involved, so that a process that
  holds the GIL for minutes is not considered dead.
- The coordinator or its process dies: the members lose their connection.
- The launcher dies: its processes notice that they have another parent.
- A process does not connect within 600 seconds (`HFPIPE_RENDEZVOUS`), or a launcher that saw it end stops the
  others, which may be waiting for it outside of Python. The coordinator knows which processes are missing; if
  process 0 is missing, the waiting processes see each other's files (`presence`).

Response. The coordinator tells every member to end, and one process per terminal to print the cause; if
`hfpipe run` started them, only it prints. A thread ends each process, because the main thread may be waiting
for the lost one in a collective operation: the process that prints ends at once, the others a second later.
This is as safe as a kill: files are written atomically, and the same command resumes.

Members also report their progress. If there is none for `PATIENCE` seconds, the coordinator requests the
current line of Python code of each member, and has the list printed.
"""

from __future__ import annotations

from hfpipe.runner.supervision.member import Alone, Member
from hfpipe.runner.supervision.membership import COORDINATOR, Started, coordinate, join_launcher, join_run

__all__ = ["COORDINATOR", "Alone", "Member", "Started", "coordinate", "join_launcher", "join_run"]
