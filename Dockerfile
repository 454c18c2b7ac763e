# An image with the binary and the policies, for pipelines:
#   mkdir out && docker run --rm -v "$PWD:/work" -w /work IMAGE compile orders.toml --root out
ARG BASE=debian:12-slim

FROM ${BASE} AS build
WORKDIR /src
COPY . .
RUN apt-get update --quiet \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends \
      ca-certificates make python3 \
 && make release

FROM ${BASE}
COPY --from=build /src/dist/release/app /usr/local/bin/app
COPY policies /usr/share/stillframe/policies
ENTRYPOINT ["/usr/local/bin/app"]
CMD ["--help"]
