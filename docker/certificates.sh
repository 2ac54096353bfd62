#!/usr/bin/env bash
# Make the files for TLS and authentication: an authority, the certificate of the SuperLink, a key for
# each node, and the secret that the SuperLink shares with the person who runs studies. Files that
# exist are kept, so nodes can be added later.
#
#     docker/certificates.sh FOLDER NODES [NAME ...]
#
# Copy FOLDER/ca.crt and FOLDER/peers.pub to every machine, and FOLDER/keys/N to node N alone.
# peers.pub has the public keys by which nodes know each other in secure sums; append " clients=K" to
# the line of a node with K speakers. server.*, secret and nodes/ (public keys) stay with the
# SuperLink, and ca.key stays with you. NAMEs are the host names or addresses by which nodes reach the
# SuperLink, besides superlink, proxy, localhost and 127.0.0.1.
set -euo pipefail
umask 077

if [ $# -lt 2 ] || ! [[ $2 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: $0 FOLDER NODES [NAME ...]" >&2
    exit 2
fi
folder=$1 nodes=$2
shift 2
mkdir -p "$folder/keys" "$folder/nodes"
cd "$folder"

if [ ! -e ca.key ]; then
    openssl req -x509 -newkey rsa:3072 -nodes -sha256 -days 3650 -subj "/CN=fedser authority" \
        -addext "basicConstraints=critical,CA:TRUE" \
        -addext "keyUsage=critical,keyCertSign,cRLSign" \
        -keyout ca.key -out ca.crt 2>/dev/null
fi

if [ ! -e server.crt ] || [ $# -gt 0 ]; then
    names="DNS:superlink,DNS:proxy,DNS:localhost,IP:127.0.0.1"
    for name in "$@"; do
        kind=DNS
        if [[ $name =~ ^[0-9.]+$ || $name == *:* ]]; then
            kind=IP
        fi
        names+=",$kind:$name"
    done
    openssl req -newkey rsa:3072 -nodes -sha256 -subj "/CN=superlink" \
        -keyout server.key -out server.csr 2>/dev/null
    openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -sha256 -days 825 \
        -out server.crt 2>/dev/null -extfile <(printf '%s\n' "subjectAltName=$names" \
        "basicConstraints=CA:FALSE" "extendedKeyUsage=serverAuth" \
        "authorityKeyIdentifier=keyid" "subjectKeyIdentifier=hash")
    rm server.csr
fi

for number in $(seq "$nodes"); do
    if [ ! -e "keys/$number" ]; then
        ssh-keygen -q -t ecdsa -b 384 -N "" -C "fedser node $number" -f "keys/$number"
        mv "keys/$number.pub" "nodes/$number.pub"
    fi
done
if [ ! -e secret ]; then
    openssl rand 32 >secret
fi
cat nodes/*.pub >peers.pub
chmod 644 ca.crt server.crt peers.pub nodes/*.pub
echo "$PWD: certificates of the authority and the SuperLink, keys of $nodes node(s)"
