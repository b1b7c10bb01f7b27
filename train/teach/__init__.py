"""`python -m train.teach`: a folder of pictures becomes a class of a model that is there already."""
