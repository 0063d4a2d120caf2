"""Serve faces to many: python -m dystyle.serve [--least 1 --most 4].

The API stands at http://127.0.0.1:8000 (its description at /docs); pages, command lines and programs use its
engines as if they were their own: `python -m dystyle.edit photo.jpg --set age=60 --backend serve --url
http://127.0.0.1:8000`.
"""

import sys

import tyro

from dystyle.errors import InputError, needed


def main() -> None:
    try:
        with needed("ray", "python -m dystyle.serve"):
            import ray
            from ray import serve

        from dystyle.serve.deployments import APP, ServeConfig, application

        config = tyro.cli(ServeConfig, prog="python -m dystyle.serve", description=__doc__)
        config.check()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    own = {} if config.address else {"_metrics_export_port": config.metrics_port, "include_dashboard": False}
    ray.init(address=config.address, **own)
    serve.start(http_options={"host": config.host, "port": config.port})
    print(f"The API is going to stand at http://{config.host}:{config.port}/docs", flush=True)
    serve.run(application(config), name=APP, route_prefix="/", blocking=config.address is None)


if __name__ == "__main__":
    main()
