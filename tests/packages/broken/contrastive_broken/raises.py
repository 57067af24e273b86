raise KeyError("several\nlines")
