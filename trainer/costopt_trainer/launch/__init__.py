"""One replica: `python -m costopt_trainer.launch`, the same in a pod and on a laptop.

__main__               the launcher from beginning to end (read first)
foreign_degrees        a split that a model of the Hugging Face library cannot have, told before ranks start
in_place               one replica's ranks, round after round: those of a gang that failed are started anew
rounds                 what follows when a round has failed, and where its time went (pure)
hangs                  what each rank shows, and what that says of the gang
gang_talk              what launchers tell each other, through replica 0's store
rendezvous             replica 0 listens, the others retry until it answers
elastic_agent          torch's elastic agent, with our own stopping
rank_processes         the ranks' processes: started together, told to stop, watched, ended
log_relay              passes their lines to stdout
rank_error             why a rank failed, in its own words
termination_message    which rank failed first and why, in at most 4,096 bytes
user                   a user's name, a home and caches, in images that have none
"""
