// What happened, the newest first.

import { useMemo, useState } from "react";

import type { Event } from "../api/client";
import { selectEvents, useLive } from "../api/live";
import { Card, Empty, Screen, When } from "../parts/basics";
import { Target, tone, words } from "../parts/event-line";
import { t } from "../text";

export function Events() {
  const events = useLive(selectEvents);
  const [search, setSearch] = useState("");
  const shown = useMemo(() => {
    const asked = search.toLowerCase().split(/\s+/).filter(Boolean);
    const text = (event: Event) => `${event.kind} ${event.name ?? ""} ${event.message} ${event.actor ?? ""} ${words(event)}`.toLowerCase();
    return events.filter((event) => asked.every((word) => text(event).includes(word)));
  }, [events, search]);
  return (
    <Screen title={t("events")} name={t("events")} under={t("events.under")} actions={<input type="search" aria-label={t("events.search")} placeholder={t("events.search")} value={search} onChange={(e) => setSearch(e.target.value)} />}>
      {events.length === 0 ? <Empty icon="events" title={t("events.none")}><p>{t("events.teach")}</p></Empty> : (
        <Card>
          {shown.length === 0 && <p className="hint">{t("nothing-found")}</p>}
          <ul className="lines log-lines">
            {shown.slice(0, 500).map((event) => (
              <li key={event.number}>
                <span className={`dot ${tone(event)}`} aria-hidden="true" />
                <span className="grow"><Target target={event.target} name={event.name} /> <bdi>{words(event)}</bdi>{words(event) !== event.message && tone(event) === "risk" && <span className="hint"> <bdi>{event.message}</bdi></span>}</span>
                <span className="hint"><bdi>{event.actor}</bdi></span>
                <code className="hint">{event.kind}</code>
                <span className="hint nowrap"><When time={event.time} /></span>
              </li>
            ))}
          </ul>
        </Card>
      )}
    </Screen>
  );
}
