"""The shell of a cluster: will apply what `costopt.plan` decides and `costopt.render` draws. Nothing is here yet."""
