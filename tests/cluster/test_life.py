"""A job's life on a cluster."""

from builders_cluster import Play
from builders_operator_process import OperatorProcess
from cluster.team import Team

def test_x(operator: OperatorProcess, team: Team) -> None:
    import json
    job = team.submit(variants=("int8",))
    job.wait_until_ended()
    team.check_usage(job)
    print(json.dumps(job.document, indent=1))
    print([ (e['type'],e['reason'],e['message']) for e in job.events()])
    print(operator.log)
    print(team.leftovers())
