// The questions that changed from one arm to another, of one type or all: right then wrong is broken, wrong then right mended.
const from = document.querySelector("#from"), to = document.querySelector("#to"), type = document.querySelector("#type");
if (from) {
  const store = document.querySelector("#questions"), articles = [...store.children];
  const all = articles.map((article) => ({ article, correct: article.dataset.correct, types: JSON.parse(article.dataset.types) }));
  store.hidden = true;
  const name = (select) => select.selectedOptions[0].textContent;

  function list(id, before, after, words) {
    const found = all.filter(
      ({ correct, types }) =>
        correct[from.value] === before && correct[to.value] === after && (!type.value || types.includes(type.value)),
    );
    const heading = document.querySelector(id);
    heading.textContent = `${words}, ${name(from)} to ${name(to)}: ${found.length}`;
    heading.nextElementSibling.append(...found.map(({ article }) => article));
    for (const label of heading.nextElementSibling.querySelectorAll(".gallery label")) {
      const radio = label.querySelector("input");
      if (label.textContent.trim() === name(to).trim() && !radio.checked) radio.click(); // shows what the second arm kept
    }
  }

  function show() {
    store.append(...articles);
    list("#broke", "1", "0", "Broken");
    list("#mended", "0", "1", "Mended");
  }

  for (const select of [from, to, type]) select.addEventListener("change", show);
  show();
}
