"""One rank: `costopt_trainer.worker`, started by the launcher. Ties its life to it, then becomes `rank`."""

import os

from costopt.names import ENV_LAUNCHER_PID
from costopt_trainer.shutdown import die_with_parent

if __name__ == "__main__":
    launcher_pid = os.environ.get(ENV_LAUNCHER_PID)
    if launcher_pid:
        die_with_parent(int(launcher_pid))
    from costopt_trainer.rank import main  # after the tie: imports take seconds, in which the launcher may die

    main()
