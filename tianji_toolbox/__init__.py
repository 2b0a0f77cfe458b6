"""What stands around the lessons: the command ``tianji``, the class, and what comes after the course.

``cli`` gives the functions of both packages a command line; ``classroom`` is for instructors, ``evaluation``
compares trainings, ``shipping`` takes a model out into the world, ``dataset`` fetches public data and cleans
on many machines. Everything here may import ``tianji_helpers``; nothing there knows of this package.
Not here: what a lesson shows.
"""
