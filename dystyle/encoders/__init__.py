"""Networks and optimisation that turn portraits into W+ codes."""

# Of the residual of the features: its channels and px, and the px of the two pictures it is predicted from.
CHANNELS, SIZE = 512, 64
PHOTO, RENDER = 512, 256
PASSES = 2  # looks at the picture of what the last one predicted, as ReStyle (Alaluf et al. 2021) does
