"""The words by which pictures and labels are counted; fixed, since bricks were trained with them."""

ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()
