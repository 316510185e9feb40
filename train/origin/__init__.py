"""Where the weights of a run come from: another run or file, or an earlier checkpoint of its own."""
