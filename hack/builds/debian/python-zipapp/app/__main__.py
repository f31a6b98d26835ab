print("hello from a zip")
