"use strict";
// Flip, blind choice, hover, toggles, sorting and the planner. The page says everything without them, too.
(() => {
  const root = document.documentElement, all = (q, from) => [...(from || document).querySelectorAll(q)];
  const one = (q, from) => (from || document).querySelector(q);
  const words = JSON.parse(one("#words").textContent);
  root.classList.add("scripted");
  const put = (text, values) => text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);

  // Flip
  const flip = one("[data-flip]");
  if (flip) {
    const buttons = all("[data-show]", flip), strips = all("[data-strip]", flip);
    const show = (n) => {
      buttons.forEach((b, i) => b.setAttribute("aria-pressed", i === n));
      strips.forEach((s, i) => s.classList.toggle("shown", i === n));
    };
    buttons.forEach((b, n) => b.addEventListener("click", () => show(n)));
    addEventListener("keydown", (e) => {
      if (!e.ctrlKey && !e.metaKey && !e.altKey && e.target.tagName !== "INPUT" && buttons[e.key - 1]) show(e.key - 1);
    });
    show(0);
  }

  // Blind choice. The interval is that of Clopper and Pearson.
  const below = (k, n, p) => {  // probability of at most k of n
    let term = Math.pow(1 - p, n), sum = k < 0 ? 0 : term;
    for (let i = 1; i <= k; i++) { term *= (n - i + 1) / i * p / (1 - p); sum += term; }
    return sum;
  };
  const solve = (f) => {  // of a falling function
    let a = 0, b = 1;
    for (let i = 0; i < 60; i++) { const m = (a + b) / 2; if (f(m) > 0) a = m; else b = m; }
    return a;
  };
  const interval = (k, n) => [
    k === 0 ? 0 : solve((p) => 0.025 - (1 - below(k - 1, n, p))),
    k === n ? 1 : solve((p) => below(k, n, p) - 0.025),
  ];
  const blind = one("[data-blind]");
  if (blind) {
    const figures = all("[data-pair]"), pictures = all(".choice img", blind), again = one(".again", blind);
    const progress = one(".progress", blind), result = one(".result", blind), choice = one(".choice", blind);
    let order, at, taken, ours;
    const next = () => {
      const [figure, swap] = order[at], images = all("img", figure);
      ours = (figure.dataset.key === "A" ? 0 : 1) ^ swap;
      pictures.forEach((p, side) => {
        p.src = images[side ^ swap].src;
        p.alt = put(words.side, {number: at + 1, side: side ? words.right : words.left});
      });
      progress.textContent = put(words.progress, {number: at + 1, count: order.length});
    };
    const start = () => {
      order = figures.map((f) => [f, Math.random() < 0.5 ? 1 : 0]);
      for (let i = order.length - 1; i > 0; i--) {
        const j = Math.floor(Math.random() * (i + 1));
        [order[i], order[j]] = [order[j], order[i]];
      }
      at = taken = 0;
      result.textContent = "";
      choice.hidden = false; choice.style.display = ""; again.hidden = true;
      next();
    };
    const percent = (x) => new Intl.NumberFormat(root.lang, {style: "percent", maximumFractionDigits: 0}).format(x);
    const finish = () => {
      const n = order.length, [low, high] = interval(taken, n);
      const reading = low > 0.5 ? words.better : high < 0.5 ? words.worse : words.same;
      choice.style.display = "none"; again.hidden = false; progress.textContent = "";
      result.textContent = put(words.result, {taken, count: n, low: percent(low), high: percent(high)}) + " " + reading;
      one("[data-solution]").classList.add("told");
    };
    all("[data-side]", blind).forEach((b) => b.addEventListener("click", () => {
      if (+b.dataset.side === ours) taken++;
      if (++at < order.length) next(); else finish();
    }));
    again.addEventListener("click", start);
    blind.hidden = false;
    start();
  }

  // Charts
  const hint = one("#hint");
  all(".chart .point").forEach((point) => {
    const title = one("title", point), text = title.textContent;
    const over = (e) => {
      title.textContent = "";  // the browser's own would come on top
      hint.textContent = text; hint.hidden = false;
      hint.style.left = Math.min(e.clientX + 14, innerWidth - hint.offsetWidth - 8) + "px";
      hint.style.top = Math.max(8, e.clientY - 38) + "px";
    };
    point.addEventListener("pointerenter", over);
    point.addEventListener("pointermove", over);
    point.addEventListener("pointerleave", () => { hint.hidden = true; title.textContent = text; });
  });
  all("[data-series]").forEach((box) => box.addEventListener("change", () => {
    all(`.chart [id*="-s${box.dataset.series}-"]`).forEach((g) => g.classList.toggle("off", !box.checked));
  }));

  // Sorting
  all("[data-sortable]").forEach((table) => {
    const heads = all("thead th", table), body = one("tbody", table);
    const value = (row, n) => {
      const cell = row.cells[n], data = one("data", cell);
      return n === 0 ? cell.textContent : data ? +data.getAttribute("value") : Infinity;
    };
    heads.forEach((head, n) => {
      const button = document.createElement("button");
      button.type = "button"; button.textContent = head.textContent;
      head.replaceChildren(button);
      head.dataset.sort = "";
      button.addEventListener("click", () => {
        const falling = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((h) => h.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", falling ? "descending" : "ascending");
        const compare = (a, b) => typeof a === "string" ? a.localeCompare(b, root.lang) : a === b ? 0 : a - b;
        const rows = [...body.rows].sort((a, b) => compare(value(a, n), value(b, n)) * (falling ? -1 : 1));
        body.append(...rows);
      });
    });
  });

  addEventListener("beforeprint", () => all("details").forEach((d) => { d.open = true; }));

  // Planner
  const planner = one("[data-planner]");
  if (planner) {
    const choices = JSON.parse(one("[data-choices]", planner).dataset.choices), data = planner.dataset;
    const number = (what) => one(`[data-number=${what}]`, planner), range = (what) => one(`[data-range=${what}]`, planner);
    const out = (what, text) => { const o = one(`[data-out=${what}]`, planner); if (o) o.textContent = text; };
    const significant = (x, digits) => new Intl.NumberFormat(root.lang, {maximumSignificantDigits: digits || 3}).format(x);
    const money = (x) => new Intl.NumberFormat(root.lang, {style: "currency", currency: data.currency, maximumSignificantDigits: 3}).format(x);
    const duration = (s) => {
      const [unit, size] = s >= 172800 ? ["day", 86400] : s >= 5400 ? ["hour", 3600] : s >= 90 ? ["minute", 60] : ["second", 1];
      return new Intl.NumberFormat(root.lang, {style: "unit", unit, unitDisplay: "short", maximumSignificantDigits: 2}).format(s / size);
    };
    const set = (node, values) => { if (node) for (const name in values) node.setAttribute(name, values[name]); };
    const draw = (today, ours, spent, images) => {
      const most = images ? 2.5 * images : 1000, top = Math.max(today * most, spent + ours * most);
      const y = (v) => (185 - 165 * v / top).toFixed(1), x = (v) => 40 + 350 * v / most;
      const ends = {today: y(today * most), ours: y(spent + ours * most)};
      set(one("[data-line=today]", planner), {y2: ends.today});
      set(one("[data-line=ours]", planner), {y1: y(spent), y2: ends.ours});
      for (const name in ends) set(one(`[data-label=${name}]`, planner), {y: +ends[name] + 4});
      const meet = one("[data-line=meet]", planner), label = one("[data-label=meet]", planner);
      for (const node of [meet, label]) if (node) node.style.display = images ? "" : "none";
      if (images) {
        set(meet, {x1: x(images), x2: x(images), y2: y(today * images)});
        if (label) label.textContent = put(words.pictures, {number: significant(images)});
      }
    };
    const update = () => {
      const price = +number("price").value, volume = +number("volume").value;
      const [calls, seconds] = choices[+range("calls").value], today = +data.today, spent = +data.spent;
      const saved = today - seconds, images = saved > 0 ? spent / saved : 0;
      const known = price > 0 && volume > 0, month = (s) => s * volume * price / 3600;
      out("calls", calls);
      out("now", known ? money(month(today)) : "–");
      out("then", known ? money(month(seconds)) : "–");
      out("saved", known ? money(month(saved)) : "–");
      out("spent", price > 0 ? money(spent * price / 3600) : "–");
      out("images", images ? significant(images) : "–");
      out("days", images && volume > 0 ? duration(images / volume * 30.44 * 86400) : "–");
      draw(today, seconds, spent, images);
    };
    for (const what of ["price", "volume"]) {
      const field = number(what), slider = range(what);
      const follow = () => { if (+field.value > 0) slider.value = Math.log10(+field.value); };
      slider.addEventListener("input", () => { field.value = +(10 ** +slider.value).toPrecision(2); update(); });
      field.addEventListener("input", () => { follow(); update(); });
      follow();
    }
    range("calls").addEventListener("input", update);
    // What is printed in the page came from the exact figures: it stays until something is moved.
  }
})();
