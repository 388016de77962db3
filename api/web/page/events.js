const kept = 500; // events
const patience = 10000; // ms until a stream that was refused is tried again

// Events keeps what the daemon tells, the newest first, and calls changed.
export class Events {
  constructor(changed) {
    this.changed = changed;
    this.rows = [];
    this.id = 0;
    this.text = null; // the search of the stream that is open
  }

  // watch opens a stream of the events that concern text; one of another text
  // is closed.
  watch(text) {
    if (this.text === text) return;
    this.close();
    this.text = text;
    this.rows = [];
    this.open();
  }

  open() {
    this.source = new EventSource(`api/events?q=${encodeURIComponent(this.text)}`);
    this.source.onopen = () => this.say("watching");
    this.source.onmessage = (m) => this.add(JSON.parse(m.data));
    this.source.onerror = () => {
      if (this.lastSaid !== "interrupted: events may be missing here") this.say("interrupted: events may be missing here");
      if (this.source.readyState === EventSource.CLOSED) this.again = setTimeout(() => this.open(), patience);
    };
  }

  close() {
    clearTimeout(this.again);
    this.source?.close();
    this.text = null;
  }

  // say adds a line of our own.
  say(said) {
    this.lastSaid = said;
    this.add({ said, time: new Date().toISOString() });
  }

  add(e) {
    if (e.lost) e.said = `${e.lost} events are not shown: too many at once`;
    else if (!e.said) this.lastSaid = null;
    e.time ??= new Date().toISOString();
    this.rows.unshift({ ...e, id: ++this.id });
    this.rows.length = Math.min(this.rows.length, kept);
    this.changed();
  }
}
