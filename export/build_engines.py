"""Build the engines ahead of the first start: what `python -m dystyle.export` does."""

from dystyle.export import main

if __name__ == "__main__":
    main()
