import sys

print("hello,", " ".join(sys.argv[1:]))
