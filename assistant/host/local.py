"""INTERIM."""

import threading
from types import SimpleNamespace

from assistant.host.composition import compose
from assistant.host.generation import Generation, TextStream


class _S:
    def __init__(s, eng, job):
        s.e, s.job, s.stopping = eng, job, False
        s.usage = SimpleNamespace(prompt=len(job.prompt), reused=0, new=0)
        s.ids = []
        s.finished = "end"

    def stop(s):
        s.stopping = True

    def __iter__(s):
        with s.e.lock:
            comp = compose(s.e.host, s.job.injections)
            key = (s.job.conversation, comp.key)
            mem = s.e.kept.pop(key, None) if s.job.conversation else None
            g = Generation(s.e.host, s.job.prompt, comp, s.job.sampling, s.job.seed, mem, stopped=lambda: s.stopping)
            st = TextStream(lambda ids: str(s.e.host.tokenizer.decode(ids, skip_special_tokens=True)))
            for t in g:
                s.ids.append(t)
                yield SimpleNamespace(text=st.push(t), ids=(t,))
            yield SimpleNamespace(text=st.rest(), ids=())
            s.usage.reused = g.reused
            s.usage.new = len(s.ids)
            s.finished = g.finished
            if s.job.conversation:
                s.e.kept[key] = g.memory


class LocalEngine:
    def __init__(self, host):
        self.host, self.lock, self.kept = host, threading.Lock(), {}

    def generate(self, job):
        return _S(self, job)

    def forget(self, c):
        [self.kept.pop(k) for k in list(self.kept) if k[0] == c]

    def clear(self):
        self.kept.clear()

    def close(self):
        pass
