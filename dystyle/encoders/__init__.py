"""Networks and optimisation that turn portraits into W+ codes."""

# Of the residual of the features: its channels and px, and the px of the two pictures it is predicted from.
CHANNELS, SIZE = 512, 64
PHOTO, RENDER = 512, 256
SAMPLED = 4  # one of so many channels is asked how much an edit changes features: all say the same within 5 %
EARLY = 9  # rows of a code that make the features; the others decode them
# What a parser of the features tells apart; a face is all of its skin and what it wears, things are clothes,
# hats and whatever is held.
KINDS = ("face", "hair", "things", "background")
PASSES = 2  # looks at the picture of what the last one predicted, as ReStyle (Alaluf et al. 2021) does
