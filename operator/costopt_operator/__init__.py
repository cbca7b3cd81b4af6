"""The shell of a cluster: applies what `costopt.plan` decides and `costopt.render` draws."""

from costopt.person import stand_in

stand_in()  # before anything else: the official client asks for a home while it is imported
