# An image in which Sluice stands where `envoy` stood: control planes start it by that name, with Envoy's flags.
#   cargo build --release && docker build -f config/kubernetes/envoy.Dockerfile -t registry.example.com/sluice:0.1.0 .
FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY target/release/sluice /usr/local/bin/envoy
# Envoy Gateway and Contour run it without root.
USER 65532:65532
ENTRYPOINT ["envoy"]
