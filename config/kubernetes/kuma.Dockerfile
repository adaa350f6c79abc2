# Kuma starts the proxy of a pod through `kuma-dp`, which looks for `envoy` in the same image and asks it for its version
# first: Sluice names the version of Envoy's API that it reads. So this image has Kuma's programs, and Sluice by that name.
#   cargo build --release && docker build -f config/kubernetes/kuma.Dockerfile --build-arg KUMA=2.12.0 -t registry.example.com/kuma-dp:2.12.0 .
ARG KUMA
FROM docker.io/kumahq/kuma-dp:$KUMA AS kuma
FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY --from=kuma /usr/bin/kuma-dp /usr/bin/coredns /usr/bin/
COPY target/release/sluice /usr/bin/envoy
USER 65532:65532
ENTRYPOINT ["/usr/bin/kuma-dp"]
