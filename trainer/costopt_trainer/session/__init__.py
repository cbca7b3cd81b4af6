"""For programs of the user's own under `command:`: what a recipe's training tells costopt, and is told by it.

    from costopt_trainer import session

    session.report(step=start, total_steps=1000)            # start-up ends here
    for step in range(start, 1000):
        with session.data_wait():
            batch = next(batches)
        loss = train_on(batch)
        session.report(step=step + 1, total_steps=1000, loss=loss)
        stop = session.should_stop()
        if stop or (step + 1) % 100 == 0:
            with session.checkpoint():
                save(...)
            session.checkpoint_saved(step + 1)
        if stop:
            session.leave()

`docs/own-scripts.md` says more. Outside costopt all of this does nothing, and `should_stop` says no; so a program is
the same on its author's machine. Importing it imports no torch.

core             one process' session: meter, reports, stops, artifacts
ranks            this rank's place, and what ranks exchange if torch is there
figures          what was reported last, as it is told
complete         checkpoints that others write: whole, or passed over
hugging_face     a callback for HF Trainer, two functions for Accelerate (extra [hf])
lightning        a callback for Lightning (extra [lightning])
SESSION          this process' session; the functions below are its methods
"""

import atexit

from costopt_trainer.session.core import Session

SESSION = Session()
atexit.register(SESSION.tell_last)

is_under_costopt = SESSION.is_under_costopt
rank = SESSION.ranks.get_rank
local_rank = SESSION.ranks.get_local_rank
world_size = SESSION.ranks.get_world_size
device = SESSION.ranks.device
storage = SESSION.get_storage
checkpoints = SESSION.checkpoints
resumed = SESSION.resumed
report = SESSION.report
should_stop = SESSION.should_stop
data_wait = SESSION.data_wait
evaluation = SESSION.evaluation
checkpoint = SESSION.checkpoint
checkpoint_saved = SESSION.checkpoint_saved
artifact = SESSION.artifact
running = SESSION.running
leave = SESSION.leave
