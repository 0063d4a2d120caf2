"""Start the browser demo: `python app.py`. Hugging Face Spaces runs this file. Settings: `dystyle.page`."""

from dystyle.page import open_page, serve_page

demo = open_page()

if __name__ == "__main__":
    serve_page(demo)
