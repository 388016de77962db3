#!/usr/bin/env bash
# Checks the .proto files and generates their Go, the REST API and the OpenAPI
# document of it, with the versions that go.mod and go.tools.mod name and nothing
# that is installed. The same input gives the same octets.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -o "$bin/" google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc \
  github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-grpc-gateway github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-openapiv2
go build -modfile="$root/go.tools.mod" -o "$bin/" github.com/bufbuild/buf/cmd/buf
export PATH="$bin:$PATH" BUF_CACHE_DIR="$bin/cache"
buf lint
buf format --diff --exit-code
rm -rf eidolon/v1/*.pb.go rest/eidolon openapi.swagger.json
buf generate
