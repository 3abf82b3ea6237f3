#!/usr/bin/env bash
# A real Apache Kafka broker (KRaft, one process) for development and tests, in a folder of its own.
#   kafka.sh start DIR [--port N] [--topic NAME:PARTITIONS]...  prints the address once the broker answers
#   kafka.sh topic DIR NAME:PARTITIONS                          creates a topic
#   kafka.sh stop DIR                                           ends it; the data stay until DIR is removed
#   kafka.sh run DIR --port N [--controller-port N] [--proxied LISTEN:ADVERTISED] [--secured N] [--mutual N]
#                                                               in the foreground
#   kafka.sh install                                            fetches the jars, once
# --proxied adds a listener that tells its clients to come to another port, where a test's proxy stands.
# --secured adds a listener with TLS and SASL (PLAIN, SCRAM-SHA-256, SCRAM-SHA-512): user plumb, password secret, the
# authority in DIR/ca.pem. --mutual adds one with TLS that asks for a certificate: DIR/client.pem and DIR/client.key.
# JVM options are in PLUMB_KAFKA_JVM, such as "-Xmx1g" for a benchmark.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common.sh"

version=$(sed -n '/<artifactId>kafka_2.13</,/<version>/s/.*<version>\(.*\)<\/version>.*/\1/p' "$here/pom.xml")
jars=$cache/kafka-$version

install() {
    [ -f "$jars/complete" ] && return
    command -v java >/dev/null || fail "Kafka needs Java 17 or later (Debian: openjdk-17-jre-headless)"
    command -v mvn >/dev/null || fail "the jars of Kafka come by Maven (Debian: maven)"
    say "fetching Apache Kafka $version"
    mkdir -p "$cache"
    local fresh
    fresh=$(mktemp -d "$cache/kafka-XXXXXX")
    mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$fresh" >&2 \
        || { rm -rf "$fresh"; fail "Maven could not fetch Apache Kafka $version"; }
    touch "$fresh/complete"
    # Another process may have been quicker: then its jars are as good.
    mv -T "$fresh" "$jars" 2>/dev/null || rm -rf "$fresh"
    [ -f "$jars/complete" ] || fail "$jars is not complete: remove it and try again"
}

# A random id as Kafka writes it: 16 bytes in URL-safe base64. Those that begin with many zeros are reserved.
random_id() { { printf '\x55'; head -c 15 /dev/urandom; } | base64 | tr '+/' '-_' | tr -d '='; }

# Asks for the metadata of the cluster: it is ready once it lists one broker.
ready() {
    local answer
    exec 3<>"/dev/tcp/127.0.0.1/$port" || return 1
    # Length, api key 3, version 0, correlation id, no client id, no topics.
    printf '\x00\x00\x00\x0e\x00\x03\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00' >&3 || return 1
    # Length, correlation id, number of brokers.
    answer=$(timeout 2 head -c 12 <&3 | od -An -tx1 | tr -d ' \n')
    exec 3>&- 3<&-
    [ "${answer:16}" = 00000001 ]
} 2>/dev/null

# A certificate of our own for the secured listener, once.
make_certificate() {
    [ -f "$dir/ca.pem" ] && return
    local key=(-alias broker -storetype PKCS12 -keystore "$dir/keystore.p12" -storepass plumb-test)
    keytool -genkeypair "${key[@]}" -keyalg EC -groupname secp256r1 -validity 30 -dname CN=plumb-test \
        -ext san=ip:127.0.0.1 2>/dev/null || fail "keytool could not make a certificate"
    keytool -exportcert -rfc "${key[@]}" 2>/dev/null >"$dir/ca.pem.new"
    # The one certificate that the listener which asks for one takes.
    openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=plumb-client -keyout "$dir/client.key" \
        -out "$dir/client.pem" 2>/dev/null || fail "openssl could not make a certificate"
    mv "$dir/ca.pem.new" "$dir/ca.pem"
}

# Makes the folder of data, once. Only Kafka's own tool can put in users of SCRAM, and it takes two seconds.
format() {
    if [ -n "$secured" ]; then
        local users=()
        for mechanism in SCRAM-SHA-256 SCRAM-SHA-512; do
            users+=(--add-scram "$mechanism=[name=plumb,password=secret]")
        done
        java -Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=error -cp "$jars/*" \
            kafka.tools.StorageTool format --cluster-id "$(random_id)" --config "$dir/server.properties" "${users[@]}" >&2 \
            || fail "Kafka's storage tool could not format $dir/data"
        return
    fi
    printf 'version=1\ncluster.id=%s\nnode.id=1\ndirectory.id=%s\n' "$(random_id)" "$(random_id)" >"$dir/data/meta.properties.new"
    mv "$dir/data/meta.properties.new" "$dir/data/meta.properties"
}

# Writes the settings and becomes the broker.
run() {
    mkdir -p "$dir/data"
    local listeners=PLAINTEXT://127.0.0.1:$port advertised=PLAINTEXT://127.0.0.1:$port
    if [ -n "$proxied" ]; then
        listeners+=,PROXIED://127.0.0.1:${proxied%:*}
        advertised+=,PROXIED://127.0.0.1:${proxied#*:}
    fi
    if [ -n "$secured" ]; then
        make_certificate
        listeners+=,SECURED://127.0.0.1:$secured
        advertised+=,SECURED://127.0.0.1:$secured
    fi
    if [ -n "$mutual" ]; then
        make_certificate
        listeners+=,MUTUAL://127.0.0.1:$mutual
        advertised+=,MUTUAL://127.0.0.1:$mutual
    fi
    cat >"$dir/server.properties" <<EOF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller_port
controller.listener.names=CONTROLLER
listeners=$listeners,CONTROLLER://127.0.0.1:$controller_port
advertised.listeners=$advertised
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURED:SASL_SSL,MUTUAL:SSL
inter.broker.listener.name=PLAINTEXT
listener.name.secured.ssl.keystore.type=PKCS12
listener.name.secured.ssl.keystore.location=$dir/keystore.p12
listener.name.secured.ssl.keystore.password=plumb-test
listener.name.secured.ssl.key.password=plumb-test
listener.name.secured.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.secured.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_plumb="secret";
listener.name.secured.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.secured.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.mutual.ssl.keystore.type=PKCS12
listener.name.mutual.ssl.keystore.location=$dir/keystore.p12
listener.name.mutual.ssl.keystore.password=plumb-test
listener.name.mutual.ssl.key.password=plumb-test
listener.name.mutual.ssl.client.auth=required
listener.name.mutual.ssl.truststore.type=PEM
listener.name.mutual.ssl.truststore.location=$dir/client.pem
log.dirs=$dir/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
# Quick for tests: groups form at once, sessions may be short, deleted records are gone within a second.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
log.retention.check.interval.ms=1000
log.segment.delete.delay.ms=0
log.initial.task.delay.ms=100
message.max.bytes=16777216
replica.fetch.max.bytes=16777216
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=4194304
EOF
    if [ ! -f "$dir/data/meta.properties" ]; then
        format
    fi
    cd "$dir"
    # shellcheck disable=SC2086  # several options in one variable
    exec java -Xms64m -Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 ${PLUMB_KAFKA_JVM:-} \
        -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$jars/*" kafka.Kafka "$dir/server.properties"
}

topic() {
    java -Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=error -cp "$jars/*" \
        org.apache.kafka.tools.TopicCommand --bootstrap-server "$1" --create --topic "${2%:*}" --partitions "${2##*:}" >&2
}

[ $# -ge 1 ] || { sed -n '2,/^set/{/^#/s/^# \?//p}' "$0"; exit 2; }
command=$1
[ "$command" = install ] && { install; exit; }
dir=${2:?a folder}
shift 2
port='' controller_port='' proxied='' secured='' mutual='' topics=()
[ "$command" = topic ] && { topics=("$@"); set --; }
while [ $# -gt 0 ]; do
    case $1 in
        --port) port=$2 ;;
        --controller-port) controller_port=$2 ;;
        --proxied) proxied=$2 ;;
        --secured) secured=$2 ;;
        --mutual) mutual=$2 ;;
        --topic) topics+=("$2") ;;
        *) fail "what is $1?" ;;
    esac
    shift 2
done
case $command in
    run)
        install
        mkdir -p "$dir"
        dir=$(cd "$dir" && pwd)
        # The quorum's address is written into the data: a restart keeps it.
        if [ -z "$controller_port" ]; then
            controller_port=$(sed -nE 's/^controller.quorum.voters=.*:([0-9]+)$/\1/p' "$dir/server.properties" 2>/dev/null || true)
        fi
        : "${port:?--port}" "${controller_port:=$(free_port)}"
        run
        ;;
    start)
        install
        : "${port:=$(free_port)}"
        start_in_background ${proxied:+--proxied "$proxied"} ${secured:+--secured "$secured"} \
            ${mutual:+--mutual "$mutual"} ${controller_port:+--controller-port "$controller_port"}
        for each in "${topics[@]}"; do topic "127.0.0.1:$port" "$each"; done
        ;;
    topic) for each in "${topics[@]}"; do topic "$(cat "$dir/address")" "$each"; done ;;
    stop) stop_pid "$dir" ;;
    *) fail "what is $command?" ;;
esac
