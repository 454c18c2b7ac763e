# An image with nothing but the binary, the policies and the C library's files, for pipelines:
#   mkdir out && docker run --rm -v "$PWD:/work" IMAGE compile orders.toml --root out
ARG BASE=debian:12-slim

FROM ${BASE} AS build
WORKDIR /src
COPY . .
RUN apt-get update --quiet \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends \
      ca-certificates make python3 \
 && make release
# What the loader needs for it, as a folder; libc's licence and those of all that is in the binary with it.
RUN mkdir -p /image/usr/local/bin /image/usr/share/stillframe /image/usr/share/doc/stillframe /image/tmp /image/work \
 && chmod 1777 /image/tmp \
 && ldd dist/release/app | grep -o '/[^ ]*' | xargs cp --dereference --parents --target-directory=/image \
 && cp dist/release/app /image/usr/local/bin/app \
 && cp -r policies /image/usr/share/stillframe/policies \
 && cp dist/release/LICENCES.txt LICENSE /image/usr/share/doc/stillframe/ \
 && cp /usr/share/doc/libc6/copyright /image/usr/share/doc/stillframe/libc6.txt

FROM scratch
COPY --from=build /image /
WORKDIR /work
ENTRYPOINT ["/usr/local/bin/app"]
CMD ["--help"]
