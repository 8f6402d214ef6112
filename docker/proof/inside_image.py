"""Read by a Python in an image, as root, so that nothing is hidden: every path that has one of the given words."""

import json
import os
import sys


def main() -> None:
    """Print the paths, and how many files were looked at, as one JSON object."""
    words, found, files = sys.argv[1:], [], 0
    for folder, folders, names in os.walk("/"):
        folders[:] = [] if folder in ("/proc", "/sys", "/dev") else folders
        files += len(names)
        found += [os.path.join(folder, name) for name in folders + names if any(word in name for word in words)]
    json.dump({"found": sorted(found), "files": files}, sys.stdout)


if __name__ == "__main__":
    main()
