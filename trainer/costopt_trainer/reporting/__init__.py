"""What any training tells of itself, a recipe's or a program of the user's own; without torch.

meter       where a rank's time goes
reporter    writes that and the progress where the shells read it
"""
