"""Augmentations: what is done to training samples on the fly. Held-out samples never come here.

table       what an augmentation is, and the table of them; augmented: data whose training samples are changed
draws       random numbers that follow from seed, epoch, sample and the augmentation's place
tokens      TokenDropout, SpanCorruption: tokens become others
words       documents as words, and back as tokens; insert, reorder and synonyms change them
geometry    Flip, Crop, Rotate: where pixels are
pixels      Color, Noise, Cutout, Mixup: what pixels are
"""
