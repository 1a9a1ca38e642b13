"""The evaluation page and the plots people look at."""
