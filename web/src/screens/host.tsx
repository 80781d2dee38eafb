// The machine that all this runs on.

import { useHost } from "../api/queries";
import { Card, Code, Fact, Facts, Loading, Problem, Screen, When } from "../parts/basics";
import { bytes, number, t } from "../text";

export function Host() {
  const { data: host, error } = useHost();
  if (!host) return <Screen title={t("host")} name={t("host")}>{error ? <Problem error={error} /> : <Loading />}</Screen>;
  return (
    <Screen title={<bdi>{host.name}</bdi>} name={t("host")} under={t("host.under")}>
      <div className="columns two">
        <Card title={t("host.machine")}>
          <Facts>
            <Fact name={t("host.processor")}>{host.processor}</Fact>
            <Fact name={t("cpus")}>{number(host.cpus)}</Fact>
            <Fact name={t("host.nodes")}>{number(host.nodes)}</Fact>
            <Fact name={t("memory")}>{bytes(host.memory)}</Fact>
            <Fact name={t("host.kernel")}>{host.kernel}</Fact>
            <Fact name={t("host.room")}>{t("free-of", { free: bytes(host.storage_available), of: bytes(host.storage) })}</Fact>
          </Facts>
        </Card>
        <Card title={t("host.daemon")}>
          <Facts>
            <Fact name={t("host.version")}>{host.version}</Fact>
            <Fact name={t("host.started")}><When time={host.started} /></Fact>
            <Fact name={t("host.engine")}>{t(`engine.${host.engine.engine}`)}{host.engine.why && <span className="hint block"><bdi>{host.engine.why}</bdi></span>}</Fact>
            <Fact name={t("id")}><code>{host.id}</code></Fact>
            <Fact name={t("host.pages")}>{(host.pages ?? []).map((page) => <bdi key={page} className="block">{page}</bdi>)}</Fact>
          </Facts>
        </Card>
      </div>
      <Card title={t("host.api")}>
        <p>{t("host.api.words")}</p>
        <Code label={t("api.call")} text={`curl -H "Authorization: Bearer $TOKEN" ${location.origin}/api/v1/host`} />
        <p><a href="/api/v1/openapi.json">/api/v1/openapi.json</a> · <a href="/metrics">/metrics</a> · <a href="/ca.pem">/ca.pem</a></p>
      </Card>
    </Screen>
  );
}
