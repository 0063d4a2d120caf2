"""The page as a program, which `dystyle.page` starts."""

from webapp.start import main

if __name__ == "__main__":
    main()
