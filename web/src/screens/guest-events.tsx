// What happened to one guest, and what was asked of it.

import type { Vm } from "../api/client";
import { selectEvents, selectTasks, useLive } from "../api/live";
import { Card } from "../parts/basics";
import { action, CancelTask, Progress, TaskState } from "../parts/recent";
import { When } from "../parts/basics";
import { t } from "../text";
import { EventLine } from "../parts/event-line";

export function GuestEvents({ vm }: { vm: Vm }) {
  const events = useLive(selectEvents).filter((event) => event.target?.endsWith(vm.id));
  const tasks = useLive(selectTasks).filter((task) => task.target.endsWith(vm.id));
  return (
    <div className="columns two">
      <Card title={t("events")}>
        {events.length === 0 && <p className="hint">{t("events.none")}</p>}
        <ul className="lines">{events.slice(0, 100).map((event) => <li key={event.number}><EventLine event={event} /></li>)}</ul>
      </Card>
      <Card title={t("tasks")}>
        {tasks.length === 0 && <p className="hint">{t("tasks.none")}</p>}
        <ul className="lines">
          {tasks.slice(0, 100).map((task) => (
            <li key={task.id}>
              <TaskState task={task} />
              <span className="grow">{action(task)} <span className="hint"><bdi>{task.error?.detail ?? task.step ?? ""}</bdi></span></span>
              <Progress task={task} /><CancelTask task={task} /><span className="hint nowrap"><bdi>{task.actor}</bdi> <When time={task.created} /></span>
            </li>
          ))}
        </ul>
      </Card>
    </div>
  );
}
