"""Processes of one run that end together, and say once why.

Who watches whom. One process runs a `Coordinator`: `hfpipe run --processes N` for the processes that it
starts, or process 0 under a launcher (`accelerate launch -m hfpipe run`, on one machine or several). Every
process of the run is a `Member`: it keeps one connection to the coordinator open as long as it takes part.
The address is in a file, which all of them can read: in a temporary folder, or next to the stages' locks in
the shared folder.

What ends a run
- A member fails: it sends the cause, and prints its own error unless another failed first.
- A member dies, by SIGKILL for instance: the system closes its connection. The coordinator reads the signal
  from `/proc` if the process was on its machine.
- A machine or the network is down: the system sends probes over an idle connection, and closes it when they
  are not answered for 30 seconds (`HFPIPE_SILENCE`). Threads have no part in it, so that a process that
  holds Python's lock for minutes is not taken for dead.
- The coordinator dies, or the process it belongs to: the members lose their connection.
- The launcher dies, which none of its processes outlives: they see that they have another parent.
- A process does not come at all within 600 seconds (`HFPIPE_RENDEZVOUS`), or a launcher that has seen it end
  stops the others, which may wait for it outside of Python. The coordinator knows which are missing; where
  process 0 is, those that wait for it see each other's files (`presence`).

What happens then. The coordinator tells every member to end, and one process on each terminal to print why;
where `hfpipe run` started them, it alone prints. A thread ends each process, as its main thread may wait for
the lost one in a collective operation: the one that prints at once, the others a second later. That is as
safe as a kill: files are written whole or not at all, and the same command resumes.

Members also report their position. When nothing has moved for `PATIENCE` seconds, the coordinator asks
each for the line of Python it is at, and has the list printed.
"""

from __future__ import annotations

from hfpipe.runner.supervision.member import Alone, Member
from hfpipe.runner.supervision.membership import COORDINATOR, Started, coordinate, join_launcher, join_run

__all__ = ["COORDINATOR", "Alone", "Member", "Started", "coordinate", "join_launcher", "join_run"]
