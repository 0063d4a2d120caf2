"""Start the browser demo: `python app.py`. Hugging Face Spaces runs this file. Settings: `webapp.start`."""

from dystyle.page import main

if __name__ == "__main__":
    main()
