"""What the trainings of all kinds of bricks share: their data as people have them, recipes, the loop and its files. Knows no kind of brick."""
