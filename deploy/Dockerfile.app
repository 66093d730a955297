# syntax=docker/dockerfile:1
# An app with its sidecar in one image: Outrigger is process 1 and starts the app.
#
#   docker build -f deploy/Dockerfile.app -t orders .
#   docker run --rm -e CONSUL_HTTP_ADDR=http://consul:8500 -e OUTRIGGER_ADDRESS=... orders
#
# It starts the app once requests are carried, registers it once it is well, collects orphans, and on
# SIGTERM stops it when no caller calls it any more. The container ends with the app's exit code.

FROM outrigger:latest AS outrigger

FROM nginx:stable
COPY --from=outrigger /outrigger /usr/local/bin/outrigger
# In the container's own layer, which its restarts keep; a volume keeps it longer.
ENV OUTRIGGER_STATE_DIR=/var/lib/outrigger
ENV OUTRIGGER_SERVICE=orders OUTRIGGER_PORT=80
# The app gets the signal that the container got: nginx ends its requests on QUIT, and drops them on TERM.
STOPSIGNAL SIGQUIT
# The list form: a shell in between would keep the signals for itself.
ENTRYPOINT ["outrigger", "run", "--", "nginx", "-g", "daemon off;"]
